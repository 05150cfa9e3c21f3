"""The spectral density, with its error band."""
