//! Cuts a manifest's text into documents and reads each into a value, on its own.
//!
//! The text is split at the document markers before anything is parsed, because a parser that meets a fault cannot
//! say where the next document begins: one broken document must not take its neighbours with it. The split is safe:
//! YAML forbids `---` at the beginning of a line inside of any scalar.

mod value;
mod yaml;

use serde_json::Value;
use value::JsonValue;

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
    vec![(first_line, yaml::read(chunk.text, chunk.lines_before))]
}

/// The values of a JSON text; `None` where already the first is no JSON (YAML knows braces too).
fn read_json(text: &str, first_line: usize) -> Option<Vec<(usize, Result<Value, DocumentError>)>> {
    let mut values = Vec::new();
    let mut lines = Lines::of(text, first_line);
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<JsonValue>();
    loop {
        let start = stream.byte_offset();
        let rest = text.get(start..).unwrap_or_default();
        let line = lines.at(start + rest.len() - rest.trim_start().len());
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

/// Says on which line something stands, for one place after the other: it never looks at a byte twice, because a text may
/// hold many thousands of values.
struct Lines<'a> {
    /// What was not looked at yet.
    rest: &'a [u8],
    /// Where in the text that begins, in bytes.
    offset: usize,
    /// The line there.
    line: usize,
}

impl<'a> Lines<'a> {
    /// Begins at the beginning of `text`, which stands on `line`.
    fn of(text: &'a str, line: usize) -> Self {
        Lines {
            rest: text.as_bytes(),
            offset: 0,
            line,
        }
    }

    /// The line on which the byte at `offset` stands; an offset before that of an earlier question has its answer.
    fn at(&mut self, offset: usize) -> usize {
        let more = offset.saturating_sub(self.offset);
        if let Some((passed, rest)) = self.rest.split_at_checked(more) {
            work::done(passed.len());
            self.line += passed.iter().filter(|byte| **byte == b'\n').count();
            (self.rest, self.offset) = (rest, self.offset + more);
        }
        self.line
    }
}

/// Counts what is done with a text, in bytes, so that a test can tell that it does not grow with the square of its size.
mod work {
    #[cfg(test)]
    thread_local! {
        static DONE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// So many bytes were looked at.
    pub(super) fn done(bytes: usize) {
        #[cfg(test)]
        DONE.set(DONE.get() + bytes);
        #[cfg(not(test))]
        let _ = bytes;
    }

    /// How many bytes were looked at since the last question.
    #[cfg(test)]
    pub(super) fn taken() -> usize {
        DONE.take()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a text of many documents, one of which is `document`, and says how many bytes were looked at for each of it.
    fn effort(document: &str, separator: &str) -> f64 {
        let text = vec![document; 20_000].join(separator);
        work::taken();
        let found = read_documents(&text);
        assert_eq!(found.len(), 20_000);
        let lines = document.matches('\n').count() + separator.matches('\n').count();
        for (n, document) in found.iter().enumerate().step_by(997) {
            assert_eq!(document.line, 1 + n * lines);
            if let Err(error) = &document.body {
                assert_eq!(error.line, document.line + 1, "{error}");
            }
        }
        work::taken() as f64 / text.len() as f64
    }

    #[test]
    fn the_effort_for_a_text_grows_with_its_length_and_no_faster() {
        for (document, separator, most) in [
            ("a: 1\nb: [x, y]\n", "---\n", 2.0),
            ("{\"a\": 1,\n \"b\": [2]}", "\n", 2.0),
            // Parsed anew for its message.
            ("a: 1\na: 2\n", "---\n", 6.0),
            ("a: 1\n b: 2\n", "---\n", 6.0),
        ] {
            let effort = effort(document, separator);
            assert!(effort <= most, "{document}: {effort} bytes looked at for each");
        }
    }
}
