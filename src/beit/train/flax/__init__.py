"""Training in JAX: `beit.train.framework` says what it offers."""
