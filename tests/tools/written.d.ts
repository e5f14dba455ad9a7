// The type of a dashboard as its JSON is written: members of enums by their values, queries with what Prometheus takes.
import type { Dashboard, DataQuery } from "@grafana/schema";

type Query = {
  expr: string;
  legendFormat: string;
  instant?: boolean;
  range?: boolean;
  format?: "time_series" | "table" | "heatmap";
};
type Written<T> = T extends string
  ? `${T}`
  : T extends (infer U)[]
    ? Written<U>[]
    : T extends DataQuery
      ? { [K in keyof T]: Written<T[K]> } & Query
      : T extends object
        ? { [K in keyof T]: Written<T[K]> }
        : T;
export type WrittenDashboard = Written<Dashboard>;
