//! What an option is: one declaration from which type, default, check and documentation come.
//!
//! `section!` declares a table of the file, `choices!` an option with a few fixed words.

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// When a change of an option takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The next start of the server.
    Restart,
    /// The next reload (SIGHUP), without dropping connections.
    Live,
}

/// What is known of an option besides its type and default.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    /// Unit of the number, empty if it has none.
    pub unit: &'static str,
    /// Least and greatest number allowed.
    pub range: Option<(i64, i64)>,
    /// When a change takes effect.
    pub reload: Reload,
    /// Whether it must be given when its table is.
    pub required: bool,
    /// A value for the example file, as TOML, for options without a default.
    pub example: &'static str,
}

/// An option of which nothing further is to be said.
pub(crate) const PLAIN: Meta = Meta { unit: "", range: None, reload: Reload::Restart, required: false, example: "" };

impl Meta {
    pub(crate) const fn unit(mut self, unit: &'static str) -> Meta {
        self.unit = unit;
        self
    }

    pub(crate) const fn range(mut self, least: i64, greatest: i64) -> Meta {
        self.range = Some((least, greatest));
        self
    }

    pub(crate) const fn live(mut self) -> Meta {
        self.reload = Reload::Live;
        self
    }

    pub(crate) const fn required(mut self) -> Meta {
        self.required = true;
        self
    }

    pub(crate) const fn example(mut self, example: &'static str) -> Meta {
        self.example = example;
        self
    }
}

/// One option, or one table of options.
#[derive(Debug, Clone)]
pub struct Opt {
    /// Its key.
    pub name: &'static str,
    /// Its documentation, a line each.
    pub docs: &'static [&'static str],
    /// What else is known of it.
    pub meta: Meta,
    /// Its default, if it has one.
    pub default: Option<Value>,
    /// What may stand there.
    pub shape: Shape,
}

/// What may stand at a key.
#[derive(Debug, Clone)]
pub enum Shape {
    /// A value.
    Value {
        /// What is expected, in words ("whole number").
        words: String,
        /// Whether a variable of the environment is taken as text, as it stands.
        text: bool,
        /// Whether a variable of the environment may be a list with commas.
        list: bool,
        /// Says what is wrong with a value.
        check: fn(&Value) -> Result<(), String>,
    },
    /// A table of its own.
    Table {
        /// The options in it.
        options: fn() -> Vec<Opt>,
        /// Their defaults.
        defaults: fn() -> Table,
    },
    /// Any number of tables (`[[name]]`).
    Tables {
        /// The options in each.
        options: fn() -> Vec<Opt>,
        /// Their defaults.
        defaults: fn() -> Table,
    },
}

/// A type that can be an option's.
pub trait Shaped: Serialize + DeserializeOwned {
    /// What may stand at the key.
    fn shape() -> Shape;
}

/// A table of the file.
pub(crate) trait Section: Serialize + DeserializeOwned + Default {
    /// The options in it, in the order of the reference.
    fn options() -> Vec<Opt>;
}

pub(crate) fn check_as<T: DeserializeOwned>(value: &Value) -> Result<(), String> {
    T::deserialize(value.clone()).map(drop).map_err(|e| e.message().trim().to_owned())
}

pub(crate) fn defaults_of<T: Section>() -> Table {
    Table::try_from(T::default()).unwrap_or_default()
}

fn value_shape<T: DeserializeOwned>(words: &str, text: bool, list: bool) -> Shape {
    Shape::Value { words: words.to_owned(), text, list, check: check_as::<T> }
}

macro_rules! shaped {
    ($($type:ty: $words:literal, $text:literal;)*) => {$(
        impl Shaped for $type {
            fn shape() -> Shape {
                value_shape::<$type>($words, $text, false)
            }
        }
    )*};
}

shaped! {
    bool: "true or false", false;
    u16: "whole number", false;
    u32: "whole number", false;
    u64: "whole number", false;
    f64: "number", false;
    String: "text", true;
    std::path::PathBuf: "path", true;
    std::net::SocketAddr: "address and port", true;
    ruma::OwnedServerName: "server name", true;
    ruma::RoomVersionId: "room version", true;
    ruma::OwnedUserId: "user id", true;
    crate::Secret: "secret text", true;
    crate::Network: "network in CIDR form", true;
}

impl<T: Shaped> Shaped for Vec<T> {
    fn shape() -> Shape {
        match T::shape() {
            Shape::Value { words, .. } => value_shape::<Vec<T>>(&format!("list of: {words}"), false, true),
            Shape::Table { options, defaults } => Shape::Tables { options, defaults },
            other @ Shape::Tables { .. } => other,
        }
    }
}

impl<T: Shaped> Shaped for Option<T> {
    fn shape() -> Shape {
        T::shape()
    }
}

/// Declares a table of the file: `name: Type = default => PLAIN.unit("ms")`.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr => $meta:expr, )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $( $field: $default, )* }
            }
        }

        impl $crate::option::Section for $name {
            fn options() -> Vec<$crate::Opt> {
                use $crate::option::PLAIN;
                let mut defaults = $crate::option::defaults_of::<$name>();
                vec![$( $crate::Opt {
                    name: stringify!($field),
                    docs: &[$($doc),*],
                    meta: $meta,
                    default: defaults.remove(stringify!($field)),
                    shape: <$type as $crate::Shaped>::shape(),
                }, )*]
            }
        }

        impl $crate::Shaped for $name {
            fn shape() -> $crate::Shape {
                $crate::Shape::Table {
                    options: <$name as $crate::option::Section>::options,
                    defaults: $crate::option::defaults_of::<$name>,
                }
            }
        }
    };
}

/// Declares an option with a few fixed words, each with what it means.
macro_rules! choices {
    (
        $(#[doc = $about:literal])*
        pub enum $name:ident { $( $(#[doc = $doc:literal])* $variant:ident = $word:literal, )* }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $( $(#[doc = $doc])* #[serde(rename = $word)] $variant, )*
        }

        impl $name {
            /// The word that stands in the file.
            pub fn word(self) -> &'static str {
                match self { $( $name::$variant => $word, )* }
            }
        }

        impl $crate::Shaped for $name {
            fn shape() -> $crate::Shape {
                let words: &[&str] = &[$( concat!("\"", $word, "\"") ),*];
                $crate::Shape::Value {
                    words: format!("one of {}", words.join(", ")),
                    text: true,
                    list: false,
                    check: $crate::option::check_as::<$name>,
                }
            }
        }
    };
}
