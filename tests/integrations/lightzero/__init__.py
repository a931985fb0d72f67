"""LightZero's own policies, measured from outside."""
