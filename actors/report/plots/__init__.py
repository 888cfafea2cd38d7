"""The pictures of a report, one file per question that they answer.

Not here: the page around them, figures for programs.
"""
