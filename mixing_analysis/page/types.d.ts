/* What the page is made of: the types that its modules name in their comments. */

export interface Layer {
  name: string;
  third: "first" | "middle" | "last";
  channels: number;
  shown: number;
}

export interface Run {
  name: string;
  group: number;
  source: string;
  architecture: number;
  steps: number[];
  logged: number;
  cells: Record<string, number>;
  channels: Record<string, { start: number | null; steps: number; bimodality: (number | null)[]; bimodal: number | null }>;
}

type Side = "below" | "above";
type Part = Side | "mean" | "lower" | "upper" | "histogram" | "channels";
type Packed<T> = Record<Part, T>;

interface Described {
  range: [number, number];
  limits: [number, number];
  neutral: number | null;
  ends: [string, string] | null;
  published: { subject: string; source: string; shares: Record<string, Partial<Record<Side, number>>> } | null;
}

interface Labeled {
  labels: string[];
  words: string[];
  neutral: number | null;
  range: [number, number];
}

export interface Pairs {
  run: number;
  layers: { name: string; r: number | null; clear: boolean; gates: number[]; gamma: number[] }[];
}

type Numbers = (number | null)[];

/** A comparison of two groups, or runs: its parts are its measures. */
export interface Pair {
  sides: [number, number];
  steps: [number, number];
  runs: [number, number];
  paired: boolean;
  parts: {
    measure: number;
    layers: number[];
    finding: string;
    difference: number[];
    low: Numbers;
    high: Numbers;
    g: Numbers;
    g_low: Numbers;
    g_high: Numbers;
    p: Numbers;
    p_holm: Numbers;
  }[];
}

export interface Comparisons {
  layers: string[];
  measures: { words: string; range: [number, number] }[];
  pairs: Pair[];
  alpha: number;
  answers: string[];
}

/** How the values of a group's layers go with one of their properties. */
export interface Relation {
  group: number;
  member: number;
  label: number | null;
  name: string;
  x: Numbers;
  y: Numbers;
  halves: Numbers[] | null;
  rank: string;
  r: number | null;
  clear: boolean;
}

/** What a group's layers have learned for a style, over the depth. */
export interface Style {
  style: string;
  group: number;
  member: number;
  label: number | null;
  places: string[];
  y: Numbers;
  halves: Numbers[];
}

/** How far two groups differ in a metric. */
export interface MetricRow {
  first: string;
  second: string;
  metric: string;
  mean_first: number;
  mean_second: number;
  difference: number;
  low: number | null;
  high: number | null;
  g: number | null;
  p_holm: number | null;
}

/** What runs have learned beside how well they do. */
export interface Outcome {
  measure: string;
  metric: string;
  runs: number[];
  x: number[];
  y: number[];
  rank: string;
  r: number | null;
  clear: boolean;
}

/** Pictures of one size in rows and columns, with gaps between them. */
interface Sheet {
  data: string;
  width: number;
  height: number;
  gap: number;
  whole: [number, number];
}

interface Channel {
  layer: string;
  channel: number;
  learned: Record<string, number | Record<string, number>>;
  ways: string[];
  images: number[];
  compared: number;
  means: number[][];
  limit: number;
  sheet: Sheet;
}

export interface Pictures {
  run: string;
  count: number;
  generated: boolean;
  rows: string[];
  given: boolean;
  sheet: Sheet | null;
  versions: { name: string; scores: Record<string, number>; changes: number[] }[];
  channels: Channel[];
}

export interface Ablation {
  run: string;
  metric: string;
  statistics: string;
  learned: number;
  parts: number;
  layers: { name: string; ways: { forced: string; change: number; interval: [number, number] | null }[] }[];
  finding: string;
}

export interface Contents {
  runs: Run[];
  groups: string[];
  architectures: Record<string, Layer[]>[];
  bins: number;
  largest: number;
  noise: number;
  channels: Record<string, Described & { packed: Packed<string> }>;
  weights: Record<string, Labeled & { packed: string }>;
  gamma: Record<string, Pairs[]>;
  ablation: Ablation[];
  binarized: { run: string; metric: string; statistics: string; learned: number; binarized: number }[] | null;
  pictures: Pictures[];
  relations: Record<string, Relation[]>;
  styles: Record<string, Style[]>;
  outcomes: Outcome[];
  metrics: { finding: string; rows: MetricRow[] };
  comparisons: Comparisons;
  notes: string[];
}

/** A kind with a value in every channel. */
export interface Gates extends Described {
  name: string;
  packed: Packed<Uint16Array>;
  gamma: Pairs[];
}

/** A family of kinds with the same labels. */
export interface Weights extends Labeled {
  name: string;
  packed: Uint16Array;
  statistics: boolean;
  colors: string[];
}

export type Section = Gates | Weights;

/** A run or a group of runs; where it is shown, with what tells it from others. */
export interface Series {
  name: string;
  members: number[];
  slot?: number;
  color?: string;
  dash?: string;
}

export interface State {
  unit: string;
  shown: Series[];
  step: number;
  search: string;
  [choice: string]: any;
}

export interface Figure {
  exists?(): boolean;
  columns?(width: number): number;
  options?(): Node[];
  draw(width: number): Node[];
  finding(): string;
  after?(figure: Element): void;
}

/** The size of a plot, its margins, and what its axes span. */
export interface Frame {
  width: number;
  height: number;
  left?: number;
  right?: number;
  top?: number;
  bottom?: number;
  x?: number[];
  y?: number[];
}
