"""stretchscope: from the ADC samples of a time-stretch microscope to super-resolved, measured cells."""

__version__ = "0.1.0"
