"""What a model's space says about data: explanations, suspicious labels, texts to annotate next."""
