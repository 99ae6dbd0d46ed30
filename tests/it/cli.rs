//! Tests of this area; see the layer of the same name.
