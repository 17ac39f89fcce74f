use std::hash::{DefaultHasher, Hash, Hasher};

/// Eight bytes for a key, however long its address: what a set of millions of leads can afford. The same within one
/// process only. Two keys may share a hash, so whoever asks must say what happens then.
pub(crate) fn key_hash(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
