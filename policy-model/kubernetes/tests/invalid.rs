//! Every kind of bad input, and the line that it gets.

use policy_model_kubernetes::{Consequence, ManifestSet};

fn lines(text: &str) -> Vec<String> {
    let mut set = ManifestSet::new();
    set.set_file("f.yaml", text);
    set.faults().iter().map(ToString::to_string).collect()
}

/// Checks the one fault of a document with a name, without the file, document and subject before it.
fn check(text: &str, expected: &str) {
    let lines = lines(text);
    assert_eq!(lines.len(), 1, "{text}\n{lines:#?}");
    let start = lines[0].find("): ").map_or(0, |at| at + 3);
    assert_eq!(&lines[0][start..], expected, "{text}");
}

/// Checks the fault of a policy with this specification.
fn policy(spec: &str, expected: &str) {
    let head = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: shop}, spec: ";
    check(&format!("{head}{spec}}}"), expected);
}

/// Checks the fault of a policy with this ingress rule.
fn rule(rule: &str, expected: &str) {
    policy(
        &format!("{{podSelector: {{}}, ingress: [{rule}]}}"),
        &format!("spec.ingress[0].{expected}"),
    );
}

/// Checks the fault of an object of a kind with these other fields.
fn object(api_version: &str, kind: &str, rest: &str, expected: &str) {
    check(
        &format!("{{apiVersion: {api_version}, kind: {kind}, {rest}}}"),
        expected,
    );
}

#[test]
fn the_line_names_file_document_object_field_and_reason() {
    let text = "kind: ConfigMap\napiVersion: v1\n---\n# a comment\n---\napiVersion: networking.k8s.io/v1\n\
                kind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n\
                spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}\n";
    assert_eq!(
        lines(text),
        [
            "f.yaml: document 2 (NetworkPolicy shop/web): spec.ingress[0].from[0].ipBlock.cidr: '10.0.0.0/33' is no CIDR"
        ]
    );
}

#[test]
fn syntax_errors_name_their_line() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: [\n";
    let found = lines(text);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("f.yaml: document 2: line 8: column 1: "),
        "{found:?}"
    );
    let text = "a: 1\n---\napiVersion: v1\nkind: Namespace\nkind: Pod\n";
    assert_eq!(
        lines(text),
        [
            "f.yaml: document 1 (object without a name): apiVersion: is missing",
            "f.yaml: document 1 (object without a name): kind: is missing",
            "f.yaml: document 2: line 5: column 1: duplicate key 'kind'",
        ]
    );
    assert_eq!(
        lines("{\"kind\": \"Pod\",\n \"kind\": \"Pod\"}"),
        ["f.yaml: document 1: line 2: column 2: duplicate key 'kind'"]
    );
    assert_eq!(
        lines("just text"),
        ["f.yaml: document 1 (document): is no object: it needs apiVersion, kind and metadata"]
    );
}

#[test]
fn a_name_in_a_file_cannot_break_the_line() {
    let mut set = ManifestSet::new();
    set.set_file(
        "f\n.yaml",
        "{apiVersion: v1, kind: Namespace, metadata: {name: \"a\\nb\"}}",
    );
    let lines: Vec<String> = set.faults().iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].lines().count(), 1, "{lines:?}");
}

#[test]
fn kinds_and_versions() {
    let rest = "metadata: {name: a}";
    object(
        "networking.k8s.io/v1",
        "NetworkPolcy",
        rest,
        "kind: 'NetworkPolcy' is no kind of networking.k8s.io/v1",
    );
    object("v1", "Pdo", rest, "kind: 'Pdo' is no kind of v1");
    let version =
        |v: &str| format!("apiVersion: '{v}' is not read for kind NetworkPolicy; write networking.k8s.io/v1");
    for v in ["extensions/v1beta1", "networking.k8s.io/v1beta1", "v1"] {
        object(v, "NetworkPolicy", rest, &version(v));
    }
    object(
        "v2",
        "Pod",
        rest,
        "apiVersion: 'v2' is not read for kind Pod; write v1",
    );
    object(
        "discovery.k8s.io/v1beta1",
        "EndpointSlice",
        rest,
        "apiVersion: 'discovery.k8s.io/v1beta1' is not read for kind EndpointSlice; write discovery.k8s.io/v1",
    );
    object(
        "projectcalico.org/v3",
        "IPPol",
        rest,
        "kind: unknown kind 'IPPol'",
    );
    object(
        "projectcalico.org/v3",
        "IPAMBlock",
        rest,
        "kind: IPAMBlock objects are written by the system, not by manifests",
    );
    check(
        "{apiVersion: 1, kind: Pod, metadata: {name: a}}",
        "apiVersion: is no text",
    );
    assert_eq!(
        lines("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: 7}"),
        Vec::<String>::new()
    );
    assert_eq!(
        lines("{apiVersion: serving.knative.dev/v1, kind: Service, spec: 7}"),
        Vec::<String>::new()
    );
}

#[test]
fn names_labels_and_annotations() {
    let namespace = |metadata: &str, expected: &str| {
        object("v1", "Namespace", &format!("metadata: {metadata}"), expected);
    };
    let label = "lower-case letters, digits and '-', a letter or digit at both ends, at most 63";
    namespace(
        "{name: Shop}",
        &format!("metadata.name: 'Shop' is no DNS label: {label}"),
    );
    namespace(
        "{name: a.b}",
        &format!("metadata.name: 'a.b' is no DNS label: {label}"),
    );
    namespace("{}", "metadata.name: is missing");
    namespace(
        "{generateName: a-}",
        "metadata.name: is missing; generateName needs an API server",
    );
    namespace(
        "{name: a, namespace: b}",
        "metadata.namespace: must not be set; the object belongs to the whole cluster",
    );
    namespace("{name: a, lables: {}}", "metadata.lables: is an unknown field");
    namespace(
        "{name: a, labels: {x: 1}}",
        "metadata.labels.x: invalid type: integer `1`, expected a string; quote it",
    );
    namespace(
        "{name: a, labels: {x: yes}}",
        "metadata.labels.x: invalid type: boolean `true`, expected a string; quote it (unquoted true, false, yes, no, \
         on and off are booleans)",
    );
    namespace(
        "{name: a, labels: {example.com/x: [1]}}",
        "metadata.labels[example.com/x]: invalid type: sequence, expected a string",
    );
    let value = "letters, digits, '-', '_' and '.', a letter or digit at both ends, at most 63";
    namespace(
        "{name: a, labels: {x: a b}}",
        &format!("metadata.labels[x]: 'a b' is no label value: {value}"),
    );
    let key = "letters, digits, '-', '_' and '.', at most 63, behind an optional DNS subdomain and '/'";
    namespace(
        "{name: a, labels: {x y: a}}",
        &format!("metadata.labels[x y]: 'x y' is no label key: {key}"),
    );
    namespace(
        "{name: a, annotations: {x y: a}}",
        &format!("metadata.annotations[x y]: 'x y' is no annotation key: {key}"),
    );
    object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "metadata: {name: a, namespace: B}",
        &format!("metadata.namespace: 'B' is no DNS label: {label}"),
    );
}

#[test]
fn policies() {
    policy(
        "{podSelector: {}, ingres: []}",
        "spec.ingres: is an unknown field",
    );
    policy(
        "{podSelector: {}, policyTypes: [ingress]}",
        "spec.policyTypes[0]: 'ingress' is no policy type: write Ingress or Egress",
    );
    policy(
        "{podSelector: {}, ingress: {}}",
        "spec.ingress: invalid type: map, expected a sequence",
    );
    policy(
        "{podSelector: []}",
        "spec.podSelector: invalid type: sequence, expected LabelSelector",
    );
    let values = "letters, digits, '-', '_' and '.', a letter or digit at both ends, at most 63";
    policy(
        "{podSelector: {matchLabels: {a: \"it's\"}}}",
        &format!("spec.podSelector.matchLabels[a]: 'it's' is no label value: {values}"),
    );
    let expression = |expression: &str, expected: &str| {
        let at = "spec.podSelector.matchExpressions[0]";
        policy(
            &format!("{{podSelector: {{matchExpressions: [{expression}]}}}}"),
            &format!("{at}.{expected}"),
        );
    };
    expression(
        "{key: a, operator: In}",
        "values: must not be empty for operator In",
    );
    expression(
        "{key: a, operator: NotIn, values: []}",
        "values: must not be empty for operator NotIn",
    );
    expression(
        "{key: a, operator: Exists, values: [b]}",
        "values: must be empty for operator Exists",
    );
    expression(
        "{key: a, operator: DoesNotExist, values: [b]}",
        "values: must be empty for operator DoesNotExist",
    );
    expression(
        "{key: a, operator: Gt, values: [\"1\"]}",
        "operator: 'Gt' is no operator: write In, NotIn, Exists or DoesNotExist",
    );
    expression("{key: a}", "operator: is missing");
    expression("{operator: Exists}", "key: is missing");
    expression(
        "{key: a, operator: In, values: [b c]}",
        &format!("values[0]: 'b c' is no label value: {values}"),
    );
    rule("{form: []}", "form: is an unknown field");
    rule(
        "{from: [{}]}",
        "from[0]: is empty: it needs podSelector, namespaceSelector or ipBlock",
    );
    rule(
        "{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}",
        "from[0]: has ipBlock together with selectors; a peer is one or the other",
    );
    let block = |block: &str, expected: &str| {
        rule(
            &format!("{{from: [{{ipBlock: {block}}}]}}"),
            &format!("from[0].ipBlock.{expected}"),
        )
    };
    block("{}", "cidr: is missing");
    block("{cidr: 10.0.0.1}", "cidr: '10.0.0.1' is no CIDR");
    block("{cidr: 10.0.0.0.0/8}", "cidr: '10.0.0.0.0/8' is no CIDR");
    block("{cidr: \"fd00::/129\"}", "cidr: 'fd00::/129' is no CIDR");
    block(
        "{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}",
        "except[0]: '10.0.0.0/8' is not strictly within 10.0.0.0/8",
    );
    block(
        "{cidr: 10.0.0.0/8, except: [11.0.0.0/9]}",
        "except[0]: '11.0.0.0/9' is not strictly within 10.0.0.0/8",
    );
    block(
        "{cidr: 10.0.0.0/8, except: [0.0.0.0/0]}",
        "except[0]: '0.0.0.0/0' is not strictly within 10.0.0.0/8",
    );
    block(
        "{cidr: 10.0.0.0/8, except: [\"::/0\"]}",
        "except[0]: '::/0' is not strictly within 10.0.0.0/8",
    );
    block("{cidr: 10.0.0.0/8, except: [x]}", "except[0]: 'x' is no CIDR");
    let port =
        |port: &str, expected: &str| rule(&format!("{{ports: [{port}]}}"), &format!("ports[0].{expected}"));
    let number = "is no port: write a number from 1 to 65535";
    port("{port: 0}", &format!("port: 0 {number}"));
    port("{port: 65536}", &format!("port: 65536 {number}"));
    port("{port: -1}", &format!("port: -1 {number}"));
    let name = "is no port name: lower-case letters, digits and single '-', at least one letter, at most 15";
    port("{port: \"80\"}", &format!("port: '80' {name}"));
    port("{port: Http}", &format!("port: 'Http' {name}"));
    port("{port: 80, endPort: 79}", "endPort: 79 is less than the port, 80");
    port("{port: 80, endPort: 65536}", &format!("endPort: 65536 {number}"));
    port(
        "{port: http, endPort: 80}",
        "endPort: needs a port that is a number, not 'http'",
    );
    port("{endPort: 80}", "endPort: needs a port");
    port(
        "{protocol: tcp}",
        "protocol: 'tcp' is no protocol: write TCP, UDP or SCTP",
    );
    port(
        "{protocol: ICMP}",
        "protocol: 'ICMP' is no protocol: write TCP, UDP or SCTP",
    );
    port("{prot: TCP}", "prot: is an unknown field");
}

#[test]
fn pods_nodes_and_services() {
    let pod = |rest: &str, expected: &str| object("v1", "Pod", rest, expected);
    let container =
        |ports: &str| format!("metadata: {{name: p}}, spec: {{containers: [{{name: c, ports: {ports}}}]}}");
    let at = "spec.containers[0].ports";
    pod(
        &container("[{containerPort: 0}]"),
        &format!("{at}[0].containerPort: 0 is no port: write a number from 1 to 65535"),
    );
    pod(
        &container("[{containerPort: 1, name: a, protocol: QUIC}]"),
        &format!("{at}[0].protocol: 'QUIC' is no protocol: write TCP, UDP or SCTP"),
    );
    pod(
        &container("[{containerPort: 1, name: a}, {containerPort: 2, name: a}]"),
        &format!("{at}[1].name: two ports of the container are named 'a'"),
    );
    pod(
        "metadata: {name: p}, spec: {hostNetwork: \"yes\"}",
        "spec.hostNetwork: invalid type: string \"yes\", expected a boolean",
    );
    pod(
        "metadata: {name: p}, spec: {containers: [{ports: []}]}",
        "spec.containers[0].name: is missing",
    );
    pod(
        "metadata: {name: p}, spec: {containers: [{name: a}, {name: a}]}",
        "spec.containers[1].name: two containers are named 'a'",
    );
    let annotation = |name: &str, value: &str| {
        format!("metadata: {{name: p, annotations: {{cni.projectcalico.org/{name}: '{value}'}}}}")
    };
    let field = |name: &str| format!("metadata.annotations[cni.projectcalico.org/{name}]");
    pod(
        &annotation("ipAddrs", "10.0.0.1"),
        &format!("{}: '10.0.0.1' is no JSON list of addresses", field("ipAddrs")),
    );
    pod(
        &annotation("ipAddrs", "[\"10.0.0\"]"),
        &format!("{}: '10.0.0' is no IP address", field("ipAddrs")),
    );
    pod(
        &annotation("ipAddrs", "[\"10.0.0.1\", \"10.0.0.2\"]"),
        &format!("{}: asks for more than one address of a family", field("ipAddrs")),
    );
    pod(
        &annotation("podIP", "10.0.0.0/24"),
        &format!("{}: '10.0.0.0/24' is no IP address", field("podIP")),
    );
    pod(
        "metadata: {name: p}, status: {podIP: x}",
        "status.podIP: 'x' is no IP address",
    );
    object(
        "v1",
        "Node",
        "metadata: {name: n}, status: {addresses: [{type: InternalIP, address: 10.0.0}]}",
        "status.addresses[0].address: '10.0.0' is no IP address",
    );
    object(
        "v1",
        "Node",
        "metadata: {name: n, annotations: {projectcalico.org/ASNumber: x}}",
        "metadata.annotations[projectcalico.org/ASNumber]: 'x' is no autonomous system number",
    );
    object(
        "v1",
        "Service",
        "metadata: {name: s}, spec: {ports: [{port: 0}]}",
        "spec.ports[0].port: 0 is no port: write a number from 1 to 65535",
    );
    object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "metadata: {name: s}, addressType: IPv4, endpoints: [{addresses: [\"fd00::1\"]}]",
        "endpoints[0].addresses[0]: fd00::1 is no IPv4",
    );
}

#[test]
fn our_own_kinds() {
    let pool = |spec: &str, expected: &str| {
        object(
            "projectcalico.org/v3",
            "IPPool",
            &format!("metadata: {{name: p}}, spec: {spec}"),
            expected,
        );
    };
    pool(
        "{cidr: 10.0.0.0/33}",
        "spec.cidr: '10.0.0.0/33' is no range: write a network with the length of its prefix, such as 10.244.0.0/16 or fd00:10:244::/56",
    );
    pool(
        "{cidr: 10.0.0.0/8, blockSize: 300}",
        "spec.blockSize: 300 is no length of a prefix: write 20 to 32 for IPv4, 116 to 128 for IPv6",
    );
    pool(
        "{cidr: 10.0.0.0/8, ipipMode: Always, vxlanMode: Always}",
        "spec.vxlanMode: cannot be combined with ipipMode; set one of them to Never",
    );
    pool(
        "{cidr: 10.0.0.1/8}",
        "spec.cidr: 10.0.0.1/8 has host bits set; 10.0.0.0/8 is meant",
    );
    pool(
        "{cidr: 10.0.0.0/8, natOutgoin: true}",
        "spec.natOutgoin: is an unknown field",
    );
    pool("{}", "spec: missing field `cidr`");
    object(
        "projectcalico.org/v3",
        "NetworkPolicy",
        "metadata: {name: knp.default.web}",
        "metadata.name: 'knp.default.web' begins with 'knp.default.', which is kept for what Kubernetes' objects become",
    );
    object(
        "projectcalico.org/v3",
        "GlobalNetworkPolicy",
        "metadata: {name: p}, spec: {selector: a ==}",
        "spec.selector: invalid selector 'a ==': at character 5: expected a quoted value, found the end of the selector",
    );
}

#[test]
fn all_faults_of_a_document_are_reported() {
    let text = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web}, spec: {podSelector: {}, \
                ingress: [{from: 1}, {ports: [{port: 0}], x: 1}, {from: [{}], ports: 2}], egress: [{to: [{ipBlock: {cidr: a}}]}]}}";
    let fields: Vec<String> = {
        let mut set = ManifestSet::new();
        set.set_file("f", text);
        set.faults().into_iter().map(|f| f.field).collect()
    };
    let expected = [
        "spec.ingress[1].x",
        "spec.ingress[0].from",
        "spec.ingress[2].ports",
        "spec.ingress[1].ports[0].port",
        "spec.egress[0].to[0].ipBlock.cidr",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn one_broken_document_does_not_take_the_others_with_it() {
    let good = |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    let text = format!(
        "{}---\nmetadata: {{\n--- # next\n{}---\n\t- [\n---\n{}",
        good("a"),
        good("b"),
        good("c")
    );
    let mut set = ManifestSet::new();
    let changes = set.set_file("f", &text);
    let names: Vec<&str> = changes
        .upserts
        .iter()
        .map(|r| r.metadata().name.as_str())
        .collect();
    assert_eq!(names, ["kns.a", "kns.b", "kns.c"]);
    let broken: Vec<(usize, Consequence)> =
        set.faults().iter().map(|f| (f.document, f.consequence)).collect();
    assert_eq!(
        broken,
        [(2, Consequence::NotInForce), (4, Consequence::NotInForce)]
    );
}
