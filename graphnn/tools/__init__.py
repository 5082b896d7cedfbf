"""Tools that compile models themselves: comparisons, reports, resources, calibration."""
