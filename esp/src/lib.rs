//! Email providers.
