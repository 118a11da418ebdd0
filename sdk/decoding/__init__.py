"""Images from anywhere, decoded with a bounded amount of memory: source, container, decoder, colours.

`sources` takes what an app has and decodes it, `containers` and `tiff` first remove what is not pixels, `memory` lets
threads share a budget, and `colours` turns every kind of pixels into RGB.
"""
