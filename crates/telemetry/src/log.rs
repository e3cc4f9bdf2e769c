//! Log lines on the standard error output, as text or JSON, without what may not stand in them.
//!
//! The rule is by field name, so that it holds for every crate: see [`NEVER`] and [`PERSONAL`].

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use samtal_kit::Clock;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Fields that are never written, at any level.
pub const NEVER: &[&str] = &["authorization", "body", "content", "password", "secret", "token"];

/// Fields that name a person or their machine; written at `debug` and `trace` only.
pub const PERSONAL: &[&str] = &["address", "device", "device_id", "email", "ip", "mxid", "sender", "user", "user_id"];

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged: this level and the graver ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only what needs the operator.
    Error = 1,
    /// And what may soon.
    Warn = 2,
    /// And the main events of the server's life.
    Info = 3,
    /// And each request with its ids.
    Debug = 4,
    /// And much more.
    Trace = 5,
}

/// Changes the level while the server runs.
#[derive(Debug, Clone)]
pub struct LogControl(Arc<AtomicU8>);

impl LogControl {
    /// Sets what is logged from now on.
    pub fn set_level(&self, level: Level) {
        self.0.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Starts logging for the whole process. A second call changes nothing but gives a control of its own.
pub fn start(format: Format, level: Level, clock: Clock) -> LogControl {
    let control = LogControl(Arc::new(AtomicU8::new(level as u8)));
    let lines = Lines {
        format,
        level: control.0.clone(),
        clock,
        write: |line| {
            // Nothing can be done about a log that cannot be written.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        },
    };
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines));
    control
}

struct Lines {
    format: Format,
    level: Arc<AtomicU8>,
    clock: Clock,
    write: fn(&str),
}

/// Fields of a span or event, what may not be written left out.
struct Fields {
    personal: bool,
    fields: Map<String, Value>,
}

impl Fields {
    fn new(level: u8) -> Fields {
        Fields { personal: level >= Level::Debug as u8, fields: Map::new() }
    }

    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if !NEVER.contains(&name) && (self.personal || !PERSONAL.contains(&name)) {
            self.fields.insert(name.to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::String(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut chain = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(chain, ": {cause}");
            source = cause.source();
        }
        self.put(field, Value::String(chain));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let chosen = self.level.load(Ordering::Relaxed);
        // Libraries speak one level more quietly than we do: their `info` is our `debug`.
        let own = metadata.target().starts_with("samtal");
        level_of(metadata.level()) + u8::from(!own && chosen < Level::Trace as u8 && level_of(metadata.level()) > 2)
            <= chosen
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new(self.level.load(Ordering::Relaxed));
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = Fields::new(self.level.load(Ordering::Relaxed));
        event.record(&mut own);
        let mut fields = Map::new();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.fields {
                    fields.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        let message = match own.fields.remove("message") {
            Some(Value::String(message)) => message,
            _ => String::new(),
        };
        fields.extend(own.fields);
        let time = crate::time::rfc3339(self.clock.now_ms());
        let line = match self.format {
            Format::Text => text_line(&time, event.metadata(), &message, &fields),
            Format::Json => json_line(time, event.metadata(), message, fields),
        };
        (self.write)(&line);
    }
}

fn level_of(level: &tracing::Level) -> u8 {
    match *level {
        tracing::Level::ERROR => Level::Error as u8,
        tracing::Level::WARN => Level::Warn as u8,
        tracing::Level::INFO => Level::Info as u8,
        tracing::Level::DEBUG => Level::Debug as u8,
        tracing::Level::TRACE => Level::Trace as u8,
    }
}

fn text_line(time: &str, metadata: &Metadata<'_>, message: &str, fields: &Map<String, Value>) -> String {
    let mut line = format!("{time} {:5} {}: {}", metadata.level().as_str(), metadata.target(), one_line(message));
    for (name, value) in fields {
        let _ = match value {
            Value::String(text) if text.contains([' ', '"', '=', '\n', '\r']) || text.is_empty() => {
                write!(line, " {name}={text:?}")
            }
            Value::String(text) => write!(line, " {name}={}", one_line(text)),
            other => write!(line, " {name}={other}"),
        };
    }
    line.push('\n');
    line
}

/// Nobody outside can forge a line of ours, or speak to the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn json_line(time: String, metadata: &Metadata<'_>, message: String, fields: Map<String, Value>) -> String {
    let mut object = Map::new();
    object.insert("time".to_owned(), Value::String(time));
    object.insert("level".to_owned(), Value::String(metadata.level().as_str().to_ascii_lowercase()));
    object.insert("target".to_owned(), Value::String(metadata.target().to_owned()));
    object.insert("message".to_owned(), Value::String(message));
    object.insert("fields".to_owned(), Value::Object(fields));
    let mut line = Value::Object(object).to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static WRITTEN: RefCell<String> = const { RefCell::new(String::new()) };
    }

    fn written(format: Format, level: Level, speak: impl FnOnce()) -> String {
        let lines = Lines {
            format,
            level: Arc::new(AtomicU8::new(level as u8)),
            clock: Clock::manual(0),
            write: |line| WRITTEN.with_borrow_mut(|all| all.push_str(line)),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), speak);
        WRITTEN.take()
    }

    fn speak() {
        let span = tracing::info_span!("request", request = "r1", user = "@a:b");
        let _in = span.enter();
        tracing::info!(password = "hush", ip = "::1", room = "!r", count = 2, "a line\nforged");
        tracing::debug!("detail");
    }

    #[test]
    fn no_secret_and_no_person_at_info() {
        assert_eq!(
            written(Format::Text, Level::Info, speak),
            "1970-01-01T00:00:00.000Z INFO  samtal_telemetry::log::tests: a line\u{fffd}forged count=2 request=r1 room=!r\n"
        );
    }

    #[test]
    fn persons_but_no_secrets_at_debug() {
        let lines = written(Format::Json, Level::Debug, speak);
        let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(first["message"], "a line\nforged");
        assert_eq!(
            first["fields"],
            serde_json::json!({"request": "r1", "user": "@a:b", "ip": "::1", "room": "!r", "count": 2})
        );
        assert!(lines.contains("detail") && !lines.contains("hush"));
    }
}
