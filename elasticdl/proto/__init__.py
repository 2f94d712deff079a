"""The messages between instances: .proto files, and what the build makes of them."""
