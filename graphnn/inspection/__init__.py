"""Explanations, profiles and predictions of plans and programs."""
