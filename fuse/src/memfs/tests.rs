//! The filesystem in memory through the trait.
