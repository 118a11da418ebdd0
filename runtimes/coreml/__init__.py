"""Core ML: an `.mlpackage`, in a zip archive, for Apple's devices. It takes an image and answers with a label."""
