//! Whole speakers talking to each other through their handles.
