"""openEO: process graphs, the archives a back end needs, a back end of your own."""
