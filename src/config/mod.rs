//! File, environment and flags, checked and turned into options for each layer.
