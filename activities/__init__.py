"""Activities: thin Durable functions around pure bodies that take `Services`."""
