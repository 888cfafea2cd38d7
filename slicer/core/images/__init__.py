"""Any image as plain pixels, and pixels as a model's input, by Pillow and numpy.

Not here: images on the wire (`codecs`), frames of videos (`video`).
"""
