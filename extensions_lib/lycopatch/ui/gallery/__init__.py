"""The library as a page sees it: what its routes answer, from the catalog on disk. No host, no page."""
