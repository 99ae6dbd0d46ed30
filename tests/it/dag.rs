//! Manifests, directories and links as others could read them: golden vectors and hostile input.
