"""Timings: clocks, contests between implementations, profiles, comparisons, calibration."""
