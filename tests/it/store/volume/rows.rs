//! One million rows: opening reads little and takes little memory.
