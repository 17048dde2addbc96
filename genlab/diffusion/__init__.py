"""Diffusion without any network: schedules, the Gaussian process, what is minimised, samplers, ODEs."""
