//! What every backend of the store has to do. A backend joins by giving an
//! empty installation; see `store_sqlite.rs`.

pub(crate) mod audit;
pub(crate) mod clones;
pub(crate) mod denials;
pub(crate) mod devices;
pub(crate) mod enrol;
pub(crate) mod maps;
pub(crate) mod paths;
pub(crate) mod usage;
