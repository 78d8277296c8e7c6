"""The embedded backbone `bundled:vit-nano`: images, pretraining, evaluation on digits."""
