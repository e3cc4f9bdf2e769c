//! Our own endpoints described (OpenAPI 3.1): each description stands beside its route, and there is no route without one.

use http::Method;
use serde_json::{Map, Value, json};

/// The form of a value.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A text.
    Text,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A whole number.
    Number,
    /// A moment, in milliseconds since the epoch.
    Moment,
    /// True or false.
    Flag,
    /// Many of the same form.
    List(&'static Form),
    /// An object with these fields.
    Object(&'static [Field]),
    /// An object whose fields are not fixed.
    Free,
    /// As the form says, or `null`.
    Maybe(&'static Form),
}

/// A field of an object, or a parameter of a query.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    pub(crate) about: &'static str,
    pub(crate) required: bool,
}

/// A field that is always there. (A function's result could not stand in a constant of a constant.)
macro_rules! field {
    ($name:expr, $form:expr, $about:expr $(,)?) => {
        $crate::openapi::Field { name: $name, form: $form, about: $about, required: true }
    };
}

/// A field that may be left out.
macro_rules! optional {
    ($name:expr, $form:expr, $about:expr $(,)?) => {
        $crate::openapi::Field { name: $name, form: $form, about: $about, required: false }
    };
}

pub(crate) use {field, optional};

/// What an endpoint is for, what it takes and what it gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// The part of the API that it belongs to.
    pub(crate) tag: &'static str,
    /// What it does.
    pub(crate) summary: &'static str,
    /// Parameters of the query.
    pub(crate) query: &'static [Field],
    /// The body.
    pub(crate) body: Option<Form>,
    /// The status of its answer.
    pub(crate) status: u16,
    /// Its answer.
    pub(crate) answer: Form,
}

impl About {
    /// An endpoint that takes nothing and answers 200.
    pub(crate) const fn new(tag: &'static str, summary: &'static str, answer: Form) -> Self {
        Self { tag, summary, query: &[], body: None, status: 200, answer }
    }

    pub(crate) const fn query(mut self, query: &'static [Field]) -> Self {
        self.query = query;
        self
    }

    pub(crate) const fn body(mut self, body: Form) -> Self {
        self.body = Some(body);
        self
    }
}

/// An endpoint with its description.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) about: About,
}

/// Nothing but that it was done.
pub(crate) const NOTHING: Form = Form::Object(&[]);

/// What an error answer says.
const ERROR: Form = Form::Object(&[
    field!("errcode", Form::Text, "The kind of error, for programs"),
    field!("error", Form::Text, "What is wrong, for people"),
]);

impl Form {
    /// As a JSON Schema.
    fn schema(self) -> Value {
        match self {
            Self::Text => json!({ "type": "string" }),
            Self::OneOf(texts) => json!({ "type": "string", "enum": texts }),
            Self::Number => json!({ "type": "integer" }),
            Self::Moment => json!({ "type": "integer", "description": "Milliseconds since the epoch" }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::List(of) => json!({ "type": "array", "items": of.schema() }),
            Self::Free => json!({ "type": "object" }),
            Self::Maybe(of) => json!({ "anyOf": [of.schema(), { "type": "null" }] }),
            Self::Object(fields) => {
                let properties: Map<String, Value> = fields
                    .iter()
                    .map(|field| {
                        let mut schema = field.form.schema();
                        schema["description"] = field.about.into();
                        (field.name.to_owned(), schema)
                    })
                    .collect();
                let required: Vec<&str> =
                    fields.iter().filter(|field| field.required).map(|field| field.name).collect();
                let mut schema = json!({ "type": "object", "properties": properties });
                if !required.is_empty() {
                    schema["required"] = json!(required);
                }
                schema
            }
        }
    }

    /// Whether a value has this form, and has no field that the form does not name; if not, why not.
    pub fn check(self, value: &Value) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{value} is not {what}"));
        match self {
            Self::Text if !value.is_string() => wrong("a text"),
            Self::OneOf(texts) if !value.as_str().is_some_and(|text| texts.contains(&text)) => {
                wrong("one of the texts")
            }
            Self::Number | Self::Moment if !value.is_i64() && !value.is_u64() => wrong("a whole number"),
            Self::Flag if !value.is_boolean() => wrong("true or false"),
            Self::Free if !value.is_object() => wrong("an object"),
            Self::Maybe(_) if value.is_null() => Ok(()),
            Self::Maybe(of) => of.check(value),
            Self::List(of) => match value.as_array() {
                Some(items) => items.iter().try_for_each(|item| of.check(item)),
                None => wrong("a list"),
            },
            Self::Object(fields) => {
                let Some(object) = value.as_object() else { return wrong("an object") };
                if let Some(name) = object.keys().find(|name| fields.iter().all(|field| field.name != **name)) {
                    return Err(format!("{name} is not described"));
                }
                fields.iter().try_for_each(|field| match object.get(field.name) {
                    Some(value) => field.form.check(value).map_err(|why| format!("{}: {why}", field.name)),
                    None if field.required => Err(format!("{} is missing", field.name)),
                    None => Ok(()),
                })
            }
            _ => Ok(()),
        }
    }
}

fn parameters(endpoint: &Described) -> Vec<Value> {
    let in_path = endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path =
        in_path.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = endpoint.about.query.iter().map(|field| {
        json!({
            "name": field.name, "in": "query", "required": field.required, "description": field.about,
            "schema": field.form.schema(),
        })
    });
    in_path.chain(in_query).collect()
}

fn operation(endpoint: &Described) -> Value {
    let about = &endpoint.about;
    let content = |form: Form| json!({ "application/json": { "schema": form.schema() } });
    let error = |text: &str| json!({ "description": text, "content": content(ERROR) });
    let mut operation = json!({
        "tags": [about.tag],
        "summary": about.summary,
        "parameters": parameters(endpoint),
        "responses": {
            about.status.to_string(): { "description": "Done", "content": content(about.answer) },
            "400": error("The request cannot be understood or makes no sense"),
            "401": error("There is no valid access token"),
            "403": error("The asker is not an administrator of the server"),
            "404": error("What the path names is not there"),
            "429": error("Too many requests"),
        },
    });
    if let Some(body) = about.body {
        operation["requestBody"] = json!({ "required": true, "content": content(body) });
    }
    operation
}

/// The whole description.
pub(crate) fn document(endpoints: &[Described]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_lowercase()] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Samtal administration API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What administrators of a Samtal server may ask of it, with the access token of an administrator. \
                The endpoints under /_synapse/admin, which common tools call, are listed in docs/admin.md.",
            "license": { "name": "EUPL-1.2", "identifier": "EUPL-1.2" },
        },
        "security": [{ "accessToken": [] }],
        "paths": paths,
        "components": { "securitySchemes": { "accessToken": { "type": "http", "scheme": "bearer" } } },
    })
}
