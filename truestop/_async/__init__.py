"""The asynchronous client. The synchronous one, `truestop._sync`, is generated from it by `make client`."""
