"""The only place that knows DI-engine and LightZero classes."""
