//! Flat values as query strings.

use serde::Serialize;
use serde_json::Value;

/// `?a=b&c=d` for a struct of strings, numbers and booleans; fields that are none are left out.
pub(super) fn to_query<T: Serialize>(value: &T) -> String {
    let mut text = String::new();
    // Our request types are flat structs, which always serialise to an object.
    let Ok(Value::Object(fields)) = serde_json::to_value(value) else {
        return text;
    };
    for (name, value) in fields {
        let value = match value {
            Value::Null => continue,
            Value::String(value) => value,
            other => other.to_string(),
        };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(&name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::extract::Query;
    use proptest::prelude::*;

    use super::super::types::{Kind, PutRequest};
    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            name in any::<String>(),
            redundancy in any::<Option<String>>(),
            survive in any::<Option<u32>>(),
            private: bool,
            expires_after_ms in any::<Option<u64>>(),
        ) {
            let request = PutRequest {
                name,
                kind: Kind::Tree,
                redundancy,
                survive,
                private,
                expires_after_ms,
            };
            let uri = format!("http://peer/v1/put{}", to_query(&request)).parse().unwrap();
            let read: Query<PutRequest> = Query::try_from_uri(&uri).unwrap();
            prop_assert_eq!(read.0, request);
        }
    }
}
