"""What jobs read and write: RecordIO files of Examples, their shards, predictions, conversions."""
