"""Every file here is a data set: its raw folder -> a Source of rows. None opens a waveform, unless it alone says age and sex."""
