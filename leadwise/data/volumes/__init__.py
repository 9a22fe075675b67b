"""Heart images from files: NIfTI, DICOM short-axis series and .npz, in one orientation and one geometry."""
