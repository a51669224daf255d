"""Text in, typed objects out, through LangChain. Nothing heavy is imported before the first use."""

from revos.extraction.extractor import Extractors, LangChainExtractor
from revos.extraction.strategies import Strategy

__all__ = ["Extractors", "LangChainExtractor", "Strategy"]
