"""DeepFM on clicks whose ids are of one large table."""
