"""Volumes from elsewhere: NIfTI and DICOM files, and how they come to lie as all images here do."""
