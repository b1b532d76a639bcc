"""A test double of Azure Cosmos DB: a server that speaks the part of its REST protocol that the official SDK uses for us.

Written from the public REST and query documentation and from recorded exchanges, and without a look at, or a line of, the
store that it tests. What isn't understood is refused (400), so that nothing passes by accident. Where the documentation
leaves a server free, the double takes the liberty that is least convenient: ties in no order, reads as old as the session
allows, pages as short as it is told.
"""
