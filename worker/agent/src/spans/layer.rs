//! Spans and events of `tracing` as rows.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;
use zerocopy::IntoBytes as _;

use super::collector::{MARKER, MarkerHead};
use super::open::{self, SlotText};
use super::text::{self, MAX_LABEL_BYTES, MAX_NAME_BYTES, Room as _};
use super::{FLAGS, MISSED, RECORDING, RECORDING_SHIFT, STEPS, append, end_span, now, pattern};
use std::sync::atomic::Ordering;

/// A layer for `tracing-subscriber` that records spans and events while a session runs.
///
/// A span is a row for each time that it is entered, so that rows of a thread nest, also where an
/// executor moves a span between threads. An event is a marker named by its message. The fields
/// `request_id` and `stage` have columns of their own; the others become JSON. Of spans that were
/// made before the recording the fields are known where one of them is `request_id`.
///
/// Where spans of a name are steps, each is one step, when it is made: how often it is entered does
/// not count.
///
/// Which spans come here is for the subscriber's filters to say.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TracingLayer;

impl TracingLayer {
    /// The layer.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

/// The fields of a span, kept for each time that it is entered.
struct SpanText(Vec<u8>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TracingLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let flags = FLAGS.load(Ordering::Relaxed);
        if flags & STEPS != 0 {
            // Here and not where it is entered: a future's span is entered at each poll.
            pattern::begin(attributes.metadata().name());
        }
        let fields = attributes.fields();
        if fields.is_empty() {
            return;
        }
        // A request may have begun before the recording: its name is kept all the same.
        let is_recording = flags & RECORDING != 0;
        if !is_recording && fields.field("request_id").is_none() {
            return;
        }
        let Some(span) = context.span(id) else { return };
        let mut text = SpanText(Vec::new());
        attributes.record(&mut Fields { room: &mut text.0, message: None });
        span.extensions_mut().insert(text);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let is_recording = FLAGS.load(Ordering::Relaxed) & RECORDING != 0;
        let Some(span) = context.span(id) else { return };
        if !is_recording && span.metadata().fields().field("request_id").is_none() {
            return;
        }
        let mut extensions = span.extensions_mut();
        if extensions.get_mut::<SpanText>().is_none() {
            extensions.insert(SpanText(Vec::new()));
        }
        if let Some(text) = extensions.get_mut::<SpanText>() {
            values.record(&mut Fields { room: &mut text.0, message: None });
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let flags = FLAGS.load(Ordering::Relaxed);
        if flags & RECORDING == 0 {
            return;
        }
        let Some(metadata) = context.metadata(id) else { return };
        let Some(slot) = open::reserve() else {
            MISSED.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut text = SlotText::new(slot);
        text::push(&mut text, text::NAME, metadata.name(), MAX_NAME_BYTES);
        text::push(&mut text, text::TARGET, metadata.target(), MAX_LABEL_BYTES);
        if !metadata.fields().is_empty()
            && let Some(span) = context.span(id)
            && let Some(fields) = span.extensions().get::<SpanText>()
        {
            append_fields(&mut text, &fields.0);
        }
        slot.open(flags >> RECORDING_SHIFT, now(), text.len(), id.into_u64());
    }

    fn on_exit(&self, id: &Id, _context: Context<'_, S>) {
        // Also where the recording stopped meanwhile: the slot must come back.
        if let Some(slot) = open::of_owner(id.into_u64()) {
            end_span(slot);
        }
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let flags = FLAGS.load(Ordering::Relaxed);
        if flags & (RECORDING | STEPS) == 0 {
            return;
        }
        let metadata = event.metadata();
        let mut text = Vec::new();
        let mut fields = Fields { room: &mut text, message: Some(String::new()) };
        event.record(&mut fields);
        let message = fields.message.unwrap_or_default();
        let name = if message.is_empty() { metadata.name() } else { &message };
        if flags & STEPS != 0 {
            pattern::begin(name);
        }
        if flags & RECORDING == 0 {
            return;
        }
        text::push_field(&mut text, "level", &metadata.level().as_str());
        let mut head = Vec::new();
        text::push(&mut head, text::NAME, name, MAX_NAME_BYTES);
        text::push(&mut head, text::TARGET, metadata.target(), MAX_LABEL_BYTES);
        head.extend_from_slice(&text);
        append(MARKER, MarkerHead { time: now(), payload: 0 }.as_bytes(), &head);
    }
}

/// The fields as they are, or without those that have no room beside the name.
fn append_fields(text: &mut SlotText, fields: &[u8]) {
    if text.append(fields) {
        return;
    }
    for (tag, part) in text::parts(fields) {
        let before = text.len();
        if !(text.append(&[tag]) && text.append(part.as_bytes())) {
            text.truncate(before);
            text.append(&[text::CUT]);
        }
    }
}

/// Writes the fields of a span or event as parts.
struct Fields<'a> {
    room: &'a mut Vec<u8>,
    /// Takes an event's message, where it is one.
    message: Option<String>,
}

impl Fields<'_> {
    fn text(&mut self, field: &Field, value: &dyn fmt::Display) {
        match (field.name(), &mut self.message) {
            ("message", Some(message)) => *message = value.to_string(),
            ("request_id", _) => self.label(text::REQUEST, value),
            ("stage", _) => self.label(text::STAGE, value),
            (name, _) => text::push_field(self.room, name, &Shown(value)),
        }
    }

    fn label(&mut self, tag: u8, value: &dyn fmt::Display) {
        text::push(self.room, tag, &value.to_string(), MAX_LABEL_BYTES);
    }

    fn number(&mut self, field: &Field, value: &(impl text::FieldValue + fmt::Display)) {
        match field.name() {
            "request_id" => self.label(text::REQUEST, value),
            "stage" => self.label(text::STAGE, value),
            name => text::push_field(self.room, name, value),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.number(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &Debugged(value));
    }
}

/// Something as its developers see it.
struct Debugged<'a>(&'a dyn fmt::Debug);

impl fmt::Display for Debugged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something shown, as a JSON text.
struct Shown<'a>(&'a dyn fmt::Display);

impl text::FieldValue for Shown<'_> {
    fn write_json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        text::quote(self.0, out)
    }
}
