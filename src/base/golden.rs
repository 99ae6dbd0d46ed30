//! The golden values of small records, for the tests of those who write them.

/// The bytes that `tests/fixtures/rows-v1.txt` has under `name`.
pub(crate) fn row(name: &str) -> Vec<u8> {
    let mut lines = include_str!("../../tests/fixtures/rows-v1.txt").lines();
    let hex = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let hex = hex.unwrap_or_else(|| panic!("no row `{name}`"));
    data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
}
