"""What a load job found: figures, tables, plots, the JSON document, the folder of files.

Not here: measuring.
"""
