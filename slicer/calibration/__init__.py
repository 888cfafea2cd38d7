"""What is fitted on images, without labels, after a model was sliced: the tables of the codec `transform`."""
