//! The configuration file: what may stand in it, what each option means, and how it is read.
//!
//! One declaration per option (in [`process`] and [`tenant`]) gives its type, default, unit,
//! range, whether a reload applies it, and its documentation; the reference page, the example
//! file and the checks all come from there. Only the assembly (`samtal-server`) sees these types:
//! engines get plain options of their own.
//!
//! Left out on purpose: what a value leads to. Whether a certificate exists or a database
//! answers is found out by those who use them.

#[macro_use]
mod option;
mod assembly;
mod effect;
mod load;
mod problem;
pub mod process;
mod reference;
pub mod tenant;
mod value;

pub use assembly::added_tenants_dir;
pub use load::{Config, Source};
pub use option::{Meta, Opt, Reload, Shape, Shaped};
pub use problem::{ConfigError, Problem};
pub use reference::{example, reference};
pub use tenant::Tenant;
pub use value::{Network, Secret};

#[cfg(test)]
mod tests;
