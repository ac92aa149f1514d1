//! The speaker: see `core`.
