"""Models of Hugging Face's transformers: found, described by a spec that needs no folder, built, filled with weights.

transformers is imported only where such a model is used (extra ``hf``). Code that comes with a model is never run.
"""
