"""Words to vectors: word2vec, its files, and questions to any table of embeddings."""
