"""Every file here is a data set: its raw folder -> a Source of rows. None of them opens a waveform."""
