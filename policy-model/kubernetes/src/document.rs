//! Cuts a manifest's text into documents and reads each into a value, on its own.
//!
//! The text is split at the document markers before anything is parsed, because a parser that meets a fault cannot
//! say where the next document begins: one broken document must not take its neighbours with it. The split is safe:
//! YAML forbids `---` at the beginning of a line inside of any scalar.

mod value;

use serde::de::DeserializeSeed;
use serde_json::Value;
use value::{JsonValue, YamlValue};

/// One document of a text, or one item of a document that is a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Number of the document among those of the text that are not empty, from 1.
    pub number: usize,
    /// Number of the item, from 0, where the document is a list (`kind: List`, `kind: PodList`).
    pub item: Option<usize>,
    /// Line of the text on which the document's content begins, from 1.
    pub line: usize,
    /// What the document says.
    pub body: Result<Value, DocumentError>,
}

/// A document that is neither YAML nor JSON, or says one thing twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct DocumentError {
    /// Line of the text, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Reads every document of a YAML or JSON text.
///
/// Empty documents (nothing but comments, or `null`) are left out and not counted. Several JSON values in a row are
/// several documents. The items of a list are documents of their own.
pub fn read_documents(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut number = 0;
    for chunk in chunks(text) {
        for (line, body) in read_chunk(&chunk) {
            if body == Ok(Value::Null) {
                continue;
            }
            number += 1;
            match body {
                Ok(value) => flatten(
                    Document {
                        number,
                        item: None,
                        line,
                        body: Ok(Value::Null),
                    },
                    value,
                    &mut documents,
                ),
                Err(error) => documents.push(Document {
                    number,
                    item: None,
                    line,
                    body: Err(error),
                }),
            }
        }
    }
    documents
}

/// A part of the text that holds one YAML document with its marker, or several JSON values.
struct Chunk<'a> {
    text: &'a str,
    /// Lines of the whole text before this part.
    lines_before: usize,
    /// Where, in bytes of `text`, the first line stands that is neither blank, comment, directive nor bare marker.
    content: usize,
    /// Lines of `text` before that line.
    blank_lines: usize,
}

/// What a line is to the division into documents.
enum LineKind {
    /// `---` alone or with a comment.
    BareMarker,
    /// `---` with content behind it.
    Marker,
    /// `...`
    End,
    /// Blank, or only a comment.
    Blank,
    /// `%YAML 1.2` and such; a directive only where no content came before.
    Directive,
    Content,
}

fn line_kind(line: &str) -> LineKind {
    let after = |rest: &str| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
    if let Some(rest) = line.strip_prefix("---")
        && after(rest)
    {
        let rest = rest.trim();
        return if rest.is_empty() || rest.starts_with('#') {
            LineKind::BareMarker
        } else {
            LineKind::Marker
        };
    }
    if line.strip_prefix("...").is_some_and(after) {
        return LineKind::End;
    }
    let trimmed = line.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        LineKind::Blank
    } else if line.starts_with('%') {
        LineKind::Directive
    } else {
        LineKind::Content
    }
}

fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let mut content: Option<(usize, usize)> = None;
    let (mut offset, mut number) = (0, 0);
    let mut close = |start: usize, end: usize, lines_before: usize, content: Option<(usize, usize)>| {
        if let Some((at, line)) = content {
            let text = text.get(start..end).unwrap_or_default();
            chunks.push(Chunk {
                text,
                lines_before,
                content: at - start,
                blank_lines: line - lines_before,
            });
        }
    };
    for line in text.split_inclusive('\n') {
        let kind = line_kind(line);
        match kind {
            LineKind::BareMarker | LineKind::Marker => {
                close(start, offset, lines_before, content.take());
                (start, lines_before) = (offset, number);
            }
            LineKind::End => {
                close(start, offset, lines_before, content.take());
                (start, lines_before) = (offset + line.len(), number + 1);
            }
            LineKind::Blank | LineKind::Directive | LineKind::Content => {}
        }
        if matches!(kind, LineKind::Marker | LineKind::Content) && content.is_none() {
            content = Some((offset, number));
        }
        offset += line.len();
        number += 1;
    }
    close(start, text.len(), lines_before, content);
    chunks
}

/// The values of a chunk, each with its first line.
fn read_chunk(chunk: &Chunk<'_>) -> Vec<(usize, Result<Value, DocumentError>)> {
    let first_line = chunk.lines_before + chunk.blank_lines + 1;
    let content = chunk.text.get(chunk.content..).unwrap_or_default();
    if content.trim_start().starts_with('{')
        && let Some(values) = read_json(content, first_line)
    {
        return values;
    }
    vec![(first_line, read_yaml(chunk))]
}

/// The values of a JSON text; `None` where already the first is no JSON (YAML knows braces too).
fn read_json(text: &str, first_line: usize) -> Option<Vec<(usize, Result<Value, DocumentError>)>> {
    let mut values = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<JsonValue>();
    loop {
        let start = stream.byte_offset();
        let before = text.get(..start).unwrap_or_default();
        let rest = text.get(start..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start().len();
        let skipped = rest.get(..blank).unwrap_or_default();
        let line = first_line + count_lines(before) + count_lines(skipped);
        match stream.next() {
            None => return Some(values),
            Some(Ok(value)) => values.push((line, Ok(value.0))),
            Some(Err(_)) if values.is_empty() => return None,
            Some(Err(error)) => {
                let reason = without_position(&error.to_string(), error.line(), error.column());
                let error = DocumentError {
                    line: first_line + error.line().saturating_sub(1),
                    column: error.column(),
                    reason,
                };
                values.push((line, Err(error)));
                return Some(values);
            }
        }
    }
}

fn count_lines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}

/// More brackets open at once than any manifest has. The parser's time grows with their square.
const MOST_OPEN_BRACKETS: usize = 1000;

/// The line, from 0, on which more brackets are open than the parser should be given.
///
/// Brackets inside of texts count too: a text with a thousand more opened than closed is no loss.
fn too_deep(text: &str) -> Option<usize> {
    let (mut open, mut line) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            b'\n' => line += 1,
            _ => {}
        }
        if open > MOST_OPEN_BRACKETS {
            return Some(line);
        }
    }
    None
}

fn read_yaml(chunk: &Chunk<'_>) -> Result<Value, DocumentError> {
    if let Some(line) = too_deep(chunk.text) {
        let reason = format!("more than {MOST_OPEN_BRACKETS} brackets are open");
        return Err(DocumentError {
            line: chunk.lines_before + line + 1,
            column: 1,
            reason,
        });
    }
    if let Ok(value) = parse_yaml(chunk.text) {
        return Ok(value);
    }
    // The parser's messages name lines, some of them two: parse once more at the right place of an empty text.
    let padded = format!("{}{}", "\n".repeat(chunk.lines_before), chunk.text);
    parse_yaml(&padded).map_err(|error| {
        let last = chunk.lines_before + count_lines(chunk.text).max(1);
        let (line, column) = error.location().map_or((last, 1), |l| (l.line(), l.column()));
        DocumentError {
            line,
            column,
            reason: without_position(&error.to_string(), line, column),
        }
    })
}

fn parse_yaml(text: &str) -> Result<Value, serde_norway::Error> {
    YamlValue { source: text }.deserialize(serde_norway::Deserializer::from_str(text))
}

/// The message without the position that the error's own fields repeat.
fn without_position(message: &str, line: usize, column: usize) -> String {
    message.replacen(&format!(" at line {line} column {column}"), "", 1)
}

/// Puts the items of a list in its place; any other value stays itself.
fn flatten(template: Document, mut value: Value, out: &mut Vec<Document>) {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    let kind = text(&value, "kind");
    let list_of = kind.as_deref().and_then(|kind| kind.strip_suffix("List"));
    let (Some(list_of), Some(Value::Array(items))) = (list_of, value.get_mut("items").map(Value::take))
    else {
        out.push(Document {
            body: Ok(value),
            ..template
        });
        return;
    };
    let api_version = text(&value, "apiVersion");
    for (n, mut item) in items.into_iter().enumerate() {
        if let Value::Object(fields) = &mut item
            && !list_of.is_empty()
        {
            // The API server leaves these out of the items of a typed list.
            fields.entry("kind").or_insert_with(|| list_of.into());
            if let Some(version) = &api_version {
                fields
                    .entry("apiVersion")
                    .or_insert_with(|| version.as_str().into());
            }
        }
        let item_number = template.item.map_or(n, |outer| outer + n);
        flatten(
            Document {
                item: Some(item_number),
                ..template.clone()
            },
            item,
            out,
        );
    }
}
