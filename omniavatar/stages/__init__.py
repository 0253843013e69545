"""Tensors to tensors: the stages of one video, one file each."""
