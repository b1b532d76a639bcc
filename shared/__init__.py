"""The domain: runs, operations, cancellation, documents. Imports nothing of Azure Functions."""
